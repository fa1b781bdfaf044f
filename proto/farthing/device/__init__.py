"""What devices and gateways say to each other: CBOR values, COSE signatures, CDDL in ``statements.cddl``."""
