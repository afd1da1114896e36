"""Decrypts with python-cwt, another implementation of COSE. A JSON object on standard input; the plaintext in hex, or the error."""

import json
import sys

from cwt import COSE, COSEKey

CONTEXT = {
    "alg": "A128KW",
    "supp_pub": {"key_data_length": 128, "protected": {"alg": "ECDH-ES+A128KW"}, "other": "SUIT Payload Encryption"},
}


def main() -> None:
    """Takes `info`, `ciphertext` and a COSE_Key, whose numbers are text in JSON; all bytes are in hex."""
    asked = json.load(sys.stdin)
    members = {int(label): value if isinstance(value, int) else bytes.fromhex(value) for label, value in asked["key"].items()}
    try:
        found = COSE.new().decode(
            bytes.fromhex(asked["info"]),
            keys=[COSEKey.new(members)],
            context=CONTEXT,
            detached_payload=bytes.fromhex(asked["ciphertext"]),
            enable_non_aead=True,
        )
    except Exception as error:
        print(json.dumps({"error": str(error)}))
        return
    print(json.dumps({"plain": found.hex()}))


main()
