"""Masked autoencoders: tokenizer, encoder, decoder, heads. Parameter names are the papers' own."""
