"""Figures of results with matplotlib, and HTML reports."""
