"""The bundled backbones, one family a file. They use only what a plugin of your own has."""
