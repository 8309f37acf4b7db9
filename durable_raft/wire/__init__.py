"""THE BYTES: RESP for clients, frames for peers; parsers and encoders that are fed by hand."""
