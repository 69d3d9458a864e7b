"""The formats of other tools: kohya's metadata, dataset TOML and latents, imagefolder, webdataset."""
