"""The pages, built from gradio components that are the same in 3.41 to 6."""
