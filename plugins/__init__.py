"""The bundled backbones, one family per file. They use only the public API, as a plugin of your own does."""
