"""An OpenAI endpoint over an engine that drafts on one device and verifies on another."""
