"""The endpoints of this room, one file a concern; `consent.api` puts them together."""
