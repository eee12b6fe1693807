"""The bundled backbones, one family per file. They use only the public API, like any other plugin."""
