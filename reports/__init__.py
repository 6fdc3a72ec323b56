"""Stored rows → figures → one HTML page."""
