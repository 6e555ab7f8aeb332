"""People's answers about pictures: the draw of pairs, the page, the file of answers, and precision."""
