"""Files of OC20 are made once for the tests of both readers."""

from oc20_records import source

__all__ = ["source"]
