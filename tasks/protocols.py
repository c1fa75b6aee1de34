"""The name under which a score may be compared: the protocol's, and all that was changed of it.

>>> protocol_name("pla", "around-answer", "head", None)
'pla, cut: head'
"""


def protocol_name(protocol: str, cut: str, truncation: str | None, tokenizer: str | None) -> str:
    """`protocol` with the truncation policy and the fixed tokenizer that stand in place of its own, if any."""
    changes = [f"cut: {truncation}"] if truncation not in (None, cut) else []
    # A path names a folder of this machine; its last part is what another reader knows.
    changes += [f"tokens: {tokenizer.rstrip('/').rpartition('/')[2]}"] if tokenizer else []
    return ", ".join([protocol, *changes])
