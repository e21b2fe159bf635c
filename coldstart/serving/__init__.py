"""A saved engine served over HTTP: durable changes, concurrent readers, metrics, a page."""
