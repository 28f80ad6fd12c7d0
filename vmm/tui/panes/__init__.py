"""The panes of the screen, each a widget that draws lines."""
