"""What a run leaves for people: the page report.html, the model card, and what draws and fills them."""
