"""What changed between two exports, from them alone: image by image where both hold it, else by distributions."""
