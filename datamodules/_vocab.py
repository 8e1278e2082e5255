"""From text to ids and back, without losing a character.

Ids 0 to 3 mean the same in every vocabulary; models and decoders import them from here.
"""

from typing import Final

#: Behind every sequence, never inside one.
PAD: Final = 0
#: Before the first target symbol.
BOS: Final = 1
#: After the last symbol of every sequence.
EOS: Final = 2
#: Whatever training did not see.
UNK: Final = 3
#: How many ids come before the first symbol of text.
SPECIALS: Final = 4
