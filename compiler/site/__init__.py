"""The documentation site: static pages made from the specs alone, which open from a folder without a server."""
