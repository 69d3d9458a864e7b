"""What other tools write: kohya's metadata, dataset TOML and latents, imagefolder, webdataset."""
