"""The pages, built from gradio components that 3.41 to 6 have alike."""
