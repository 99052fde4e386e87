"""Studies of the paper on one's own data: each is a Parquet table and a figure."""
