"""What an output's XMP says about its making, in the words of the IPTC Photo Metadata Standard and in our own.

``Iptc4xmpExt:DigitalSourceType`` says that a trained model worked on the picture, ``AISystemUsed`` and
``AISystemVersionUsed`` (standard 2025.1) which one. Entries of the source stay as they are, byte by byte.
"""

from __future__ import annotations

import json
import re
from typing import Any
from xml.sax.saxutils import quoteattr

PREFIX = "idas_sr"
NAMESPACE = "urn:idas-sr:recipe/1.0/"
SHOWN = ("model", "realism", "raw", "seed", "t_hat", "t_r", "version")
"""Entries of a recipe that are properties of their own; all of them together are in ``recipe``."""

_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_OURS = re.compile(rb"<rdf:Description\b[^>]*\bxmlns:idas_sr=[^>]*/>\s*")
# As attribute and as element.
_TYPE = re.compile(
    rb"\s+Iptc4xmpExt:DigitalSourceType\s*=\s*(?:\"[^\"]*\"|'[^']*')"
    rb"|<Iptc4xmpExt:DigitalSourceType>[^<]*</Iptc4xmpExt:DigitalSourceType>\s*"
)
_GENERATED = re.compile(rb"digitalsourcetype/trainedAlgorithmicMedia\b")


def extended(packet: bytes | None, recipe: str) -> tuple[bytes, bool]:
    """A packet that says how an output was made, beside what the source's said.

    A source that calls itself wholly generated (``trainedAlgorithmicMedia``) stays that; what an earlier restoration
    said of itself goes.

    Args:
        packet: the source's XMP, or None.
        recipe: text that `idas_sr.recipe.complete` wrote; of other texts only the text is kept.

    Returns:
        The packet, and whether all of the source's is in it: a packet that is no RDF gives way.
    """
    is_generated = packet is not None and _GENERATED.search(packet) is not None
    entry = _entry(recipe, is_generated)
    if packet is None:
        return _packet(entry), True
    kept = _OURS.sub(b"", packet)
    if not is_generated:
        kept = _TYPE.sub(b"", kept)
    graph = b'<rdf:RDF xmlns:rdf="' + _RDF.encode() + b'">' + entry + b"</rdf:RDF>"
    for pattern, replacement in (
        (rb"</rdf:RDF\s*>", lambda match: entry + match[0]),
        (rb"<rdf:RDF\b([^>]*)/>", lambda match: b"<rdf:RDF" + match[1] + b">" + entry + b"</rdf:RDF>"),
        (rb"</x:xmpmeta\s*>", lambda match: graph + match[0]),
        (rb"<x:xmpmeta\b([^>]*)/>", lambda match: b"<x:xmpmeta" + match[1] + b">" + graph + b"</x:xmpmeta>"),
    ):
        found, count = re.subn(pattern, replacement, kept, count=1)
        if count:
            return found, True
    return _packet(entry), False


def _entry(recipe: str, is_generated: bool) -> bytes:
    values = _properties(recipe)
    properties = {f"xmlns:{PREFIX}": NAMESPACE, "xmlns:Iptc4xmpExt": _IPTC}
    if "source_type" in values and not is_generated:
        properties["Iptc4xmpExt:DigitalSourceType"] = values["source_type"]
    if "model" in values and "version" in values:
        properties["Iptc4xmpExt:AISystemUsed"] = f"IDaS-SR, model {values['model']}"
        properties["Iptc4xmpExt:AISystemVersionUsed"] = values["version"]
    properties |= {f"{PREFIX}:{name}": values[name] for name in SHOWN if name in values}
    properties[f"{PREFIX}:recipe"] = recipe
    attributes = " ".join(f"{name}={quoteattr(str(value))}" for name, value in properties.items())
    # As attributes of one element, whose end is found without a parser when the output is restored again.
    return f'<rdf:Description rdf:about="" {attributes}/>'.encode()


def _properties(recipe: str) -> dict[str, Any]:
    try:
        values = json.loads(recipe)
    except ValueError:
        return {}
    if not isinstance(values, dict) or not isinstance(result := values.get("result", {}), dict):
        return {}
    flat = values | result | result.get("trace", {})
    return {name: value for name, value in flat.items() if isinstance(value, str | int | float)}


def _packet(entry: bytes) -> bytes:
    # The identifier is the same in every packet there is (XMP specification, part 1, 7.3.2).
    head = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    graph = f'<rdf:RDF xmlns:rdf="{_RDF}">'.encode() + entry + b"</rdf:RDF>"
    return head.encode() + graph + b'</x:xmpmeta><?xpacket end="w"?>'
