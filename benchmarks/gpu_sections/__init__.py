"""Parts of `benchmarks.gpu`: what one card could do, and what of it the engine and the whole job make use of."""
