"""Measuring a live OpenAI endpoint: the work of `motley plan profile URL`."""
