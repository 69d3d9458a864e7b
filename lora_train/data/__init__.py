"""The training set: from a folder of pictures to batches."""
