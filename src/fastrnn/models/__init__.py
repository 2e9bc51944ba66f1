"""Models made of the library's layers."""

from .char_lm import CharLM
from .encoder_decoder import EncoderDecoder

__all__ = ["CharLM", "EncoderDecoder"]
