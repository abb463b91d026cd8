"""The tables of the ledger. Times are microseconds since 1970 UTC.

No column holds an identifier in the clear: `identifiers` and `sealed` are encrypted, `lookup` and
`pseudonym` are keyed hashes, `subject` is a random handle.
"""

from __future__ import annotations

import sqlalchemy as sa

__all__ = ["metadata"]

metadata = sa.MetaData()

_index = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # so that SQLite uses its rowid
_name = sa.String(160)

head = sa.Table(
    "consent_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("root", sa.LargeBinary, nullable=False),
    sa.Column("recorded_at", sa.BigInteger, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    # the version of the key ring under which lookups are hashed; 0 until the ledger is first opened
    sa.Column("lookup_version", sa.Integer, nullable=False, server_default="0"),
)
entries = sa.Table(
    "consent_entries",
    metadata,
    sa.Column("idx", _index, primary_key=True, autoincrement=False),
    sa.Column("leaf", sa.LargeBinary, nullable=False),
    sa.Column("side", sa.BigInteger, nullable=False),
)
tiles = sa.Table(
    "consent_tiles",
    metadata,
    sa.Column("level", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("idx", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("hashes", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
side = sa.Table(
    "consent_side",
    metadata,
    sa.Column("first_index", _index, primary_key=True, autoincrement=False),
    sa.Column("subject", sa.LargeBinary, nullable=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Index("consent_side_subject", "subject"),
)
subjects = sa.Table(
    "consent_subjects",
    metadata,
    sa.Column("handle", sa.LargeBinary, primary_key=True),
    sa.Column("wrapped_key", sa.LargeBinary, nullable=False),
    sa.Column("identifiers", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    # whom this subject turned out to be, and since when; its key stays, as its payloads are sealed under it
    sa.Column("merged_into", sa.LargeBinary, nullable=True),
    sa.Column("merged_at", sa.BigInteger, nullable=True),
    sa.Index(
        "consent_subjects_merged",
        "merged_into",
        sqlite_where=sa.text("merged_into IS NOT NULL"),
        postgresql_where=sa.text("merged_into IS NOT NULL"),
    ),
    sqlite_with_rowid=False,
)
aliases = sa.Table(
    "consent_aliases",
    metadata,
    sa.Column("lookup", sa.LargeBinary, primary_key=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("subject", sa.LargeBinary, nullable=False),
    sa.Index("consent_aliases_subject", "subject"),
    sqlite_with_rowid=False,
)
state = sa.Table(
    "consent_state",
    metadata,
    sa.Column("purpose", _name, primary_key=True),
    sa.Column("partner", _name, primary_key=True),
    sa.Column("subject", sa.LargeBinary, primary_key=True),
    sa.Column("granted_at", sa.BigInteger, nullable=True),
    sa.Column("granted_version", sa.Integer, nullable=True),
    sa.Column("expires_at", sa.BigInteger, nullable=True),
    sa.Column("granted_index", sa.BigInteger, nullable=True),
    sa.Column("restricted_at", sa.BigInteger, nullable=True),
    sa.Column("restriction", sa.String(32), nullable=True),
    sa.Column("restricted_index", sa.BigInteger, nullable=True),
    sqlite_with_rowid=False,
)
policies = sa.Table(
    "consent_policies",
    metadata,
    sa.Column("idx", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
)
partners = sa.Table(
    "consent_partners",
    metadata,
    sa.Column("name", _name, primary_key=True),
    sa.Column("vkey", sa.String(512), nullable=False),
    sa.Column("joined_index", sa.BigInteger, nullable=False),
    # when the agreement ended: nothing more is queued for the partner
    sa.Column("removed_at", sa.BigInteger, nullable=True),
    # what this node sends: sequence numbers handed out and acknowledged, and the feed log's frontier there
    sa.Column("sent_seq", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("acked_seq", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("acked_frontier", sa.LargeBinary, nullable=True),
    sa.Column("acked_at", sa.BigInteger, nullable=True),
    # what this node has heard: size, frontier and newest signed head of the partner's feed log
    sa.Column("heard_seq", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("heard_frontier", sa.LargeBinary, nullable=True),
    sa.Column("heard_checkpoint", sa.Text, nullable=True),
    sa.Column("heard_at", sa.BigInteger, nullable=True),
    sa.Column("enforced_seq", sa.BigInteger, nullable=False, server_default="0"),
    # how old what was heard last may be (null: any age), and when this node was last up to date
    sa.Column("lease", sa.BigInteger, nullable=True),
    sa.Column("fresh_at", sa.BigInteger, nullable=True),
)
outbox = sa.Table(
    "consent_outbox",
    metadata,
    sa.Column("partner", _name, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("idx", sa.BigInteger, nullable=False),
    sa.Column("subject", sa.LargeBinary, nullable=False),
    sa.Column("type", sa.String(32), nullable=False),
    sa.Column("purposes", sa.Text, nullable=False),
    sa.Column("effective_at", sa.BigInteger, nullable=False),
    sa.Column("recorded_at", sa.BigInteger, nullable=False),
    sa.Column("received_at", sa.BigInteger, nullable=True),
    sa.Column("enforced_at", sa.BigInteger, nullable=True),
    sa.Column("acked_at", sa.BigInteger, nullable=True),
    # of somebody erased before the partner acknowledged: their pseudonyms, sealed under the ring
    sa.Column("pseudonyms", sa.LargeBinary, nullable=True),
    sa.Index("consent_outbox_subject", "subject"),
    sqlite_with_rowid=False,
)
inbox = sa.Table(
    "consent_inbox",
    metadata,
    sa.Column("partner", _name, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("idx", sa.BigInteger, nullable=False),
    sa.Column("recorded_at", sa.BigInteger, nullable=False),
    sa.Column("leaf", sa.LargeBinary, nullable=False),
    sa.Column("pseudonyms", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
restrictions = sa.Table(
    "consent_restrictions",
    metadata,
    sa.Column("partner", _name, primary_key=True),
    sa.Column("kind", sa.String(32), primary_key=True),
    sa.Column("pseudonym", sa.LargeBinary, primary_key=True),
    sa.Column("purpose", _name, primary_key=True),
    sa.Column("restricted_at", sa.BigInteger, nullable=True),
    sa.Column("lifted_at", sa.BigInteger, nullable=True),
    sa.Column("idx", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
receipts = sa.Table(
    "consent_receipts",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("idx", sa.BigInteger, nullable=False, unique=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("purpose", _name, nullable=False),
    sa.Column("partner", _name, nullable=False),
    sa.Column("job", sa.String(160), nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("members", sa.LargeBinary, nullable=False),
)
audit_reports = sa.Table(
    "consent_audit_reports",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("idx", sa.BigInteger, nullable=False, unique=True),
    sa.Column("law", sa.String(16), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
)
# Erasure. A suppression is a keyed hash under a key of its own, so that it matches nothing else kept here;
# `subjects` are the handles of a request that waits for its hold to end, null once it is carried out.
suppressions = sa.Table(
    "consent_suppressions",
    metadata,
    sa.Column("lookup", sa.LargeBinary, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("basis", sa.String(64), nullable=False),
    sa.Column("erased_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=True),
    sa.Column("idx", sa.BigInteger, nullable=False),
    sa.Index("consent_suppressions_expiry", "expires_at"),
    sqlite_with_rowid=False,
)
erasures = sa.Table(
    "consent_erasures",
    metadata,
    sa.Column("request", sa.String(32), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("basis", sa.String(64), nullable=False),
    sa.Column("requested_at", sa.BigInteger, nullable=False),
    sa.Column("requested_index", sa.BigInteger, nullable=False),
    sa.Column("subjects", sa.LargeBinary, nullable=True),
    sa.Column("hold_basis", sa.String(64), nullable=True),
    sa.Column("held_until", sa.BigInteger, nullable=True),
    sa.Column("completed_at", sa.BigInteger, nullable=True),
    sa.Column("completed_index", sa.BigInteger, nullable=True),
    sa.Column("entries", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("scrubbed_at", sa.BigInteger, nullable=True),
)
lookup_keys = sa.Table(
    "consent_lookup_keys",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("since_index", sa.BigInteger, nullable=False),
)
witnessed = sa.Table(
    "consent_witnessed",
    metadata,
    sa.Column("origin", sa.String(512), primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("root", sa.LargeBinary, nullable=False),
    sa.Column("checkpoint", sa.Text, nullable=False),  # the log's signature and this node's cosignature
    sa.Column("seconds", sa.BigInteger, nullable=False),  # POSIX time of the cosignature
    sqlite_with_rowid=False,
)
split_views = sa.Table(
    "consent_split_views",
    metadata,
    sa.Column("digest", sa.LargeBinary, primary_key=True),
    sa.Column("origin", sa.String(512), nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("first", sa.Text, nullable=False),
    sa.Column("second", sa.Text, nullable=False),
    sa.Column("seen_at", sa.BigInteger, nullable=False),
    sa.Column("idx", sa.BigInteger, nullable=True),  # of the entry in the log that says so
)
# The state tree in rows, the state they stand for, and the keys of pairs that are no longer in the state.
state_tree = sa.Table(
    "consent_state_tree",
    metadata,
    sa.Column("path", sa.String(64), primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
state_head = sa.Table(
    "consent_state_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("through", sa.BigInteger, nullable=False),
    sa.Column("idx", sa.BigInteger, nullable=True),
    sa.Column("pairs", sa.BigInteger, nullable=False),
    sa.Column("root", sa.LargeBinary, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
)
state_removed = sa.Table(
    "consent_state_removed",
    metadata,
    sa.Column("key", sa.LargeBinary, primary_key=True),
    sqlite_with_rowid=False,
)
links = sa.Table(
    "consent_links",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("token_hash", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("person", sa.LargeBinary, nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("purposes", sa.Text, nullable=False),
    sa.Column("partners", sa.Text, nullable=False),
    sa.Column("created_by", sa.String(128), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("revoked_at", sa.BigInteger, nullable=True),
    sa.Index("consent_links_person", "person"),
    sa.Index("consent_links_created", "created_at", "id"),
)
feed_evidence = sa.Table(
    "consent_feed_evidence",
    metadata,
    # two heads of one partner's feed log, both signed by it, that cannot both be true; `message` is what
    # the second came in
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("partner", _name, nullable=False),
    sa.Column("found", sa.String(32), nullable=False),
    sa.Column("heard", sa.Text, nullable=False),
    sa.Column("shown", sa.Text, nullable=False),
    sa.Column("message", sa.LargeBinary, nullable=False),
    sa.Column("idx", sa.BigInteger, nullable=False),
    sa.Column("found_at", sa.BigInteger, nullable=False),
    sa.Index("consent_feed_evidence_partner", "partner"),
)
