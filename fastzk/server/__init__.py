"""The server: read app.py first."""
