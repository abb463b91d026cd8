"""The tables of the first release.

Revision 0001, the first.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "privacy_budget_accounts",
        sa.Column("lineage", sa.String(length=255), nullable=False),
        sa.Column("partner", sa.String(length=255), nullable=False),
        sa.Column("period", sa.String(length=64), nullable=False),
        sa.Column("held_epsilon", sa.Text(), nullable=False),
        sa.Column("held_delta", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("lineage", "partner", "period"),
    )
    op.create_table(
        "privacy_budget_reservations",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("lineage", sa.String(length=255), nullable=False),
        sa.Column("partner", sa.String(length=255), nullable=False),
        sa.Column("period", sa.String(length=64), nullable=False),
        sa.Column("job", sa.String(length=255), nullable=False),
        sa.Column("epsilon", sa.Text(), nullable=False),
        sa.Column("delta", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.CheckConstraint("state IN ('reserved', 'committed', 'released')", name="ck_privacy_budget_state"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("lineage", "partner", "period", "job", name="uq_privacy_budget_reservations_job"),
    )
    op.create_table(
        "consent_aliases",
        sa.Column("lookup", sa.LargeBinary(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("lookup"),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("consent_aliases", schema=None) as batch_op:
        batch_op.create_index("consent_aliases_subject", ["subject"], unique=False)

    op.create_table(
        "consent_audit_reports",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("idx", sa.BigInteger(), nullable=False),
        sa.Column("law", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("idx"),
    )
    op.create_table(
        "consent_entries",
        sa.Column(
            "idx", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False
        ),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("side", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("idx"),
    )
    op.create_table(
        "consent_erasures",
        sa.Column("request", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("basis", sa.String(length=64), nullable=False),
        sa.Column("requested_at", sa.BigInteger(), nullable=False),
        sa.Column("requested_index", sa.BigInteger(), nullable=False),
        sa.Column("subjects", sa.LargeBinary(), nullable=True),
        sa.Column("hold_basis", sa.String(length=64), nullable=True),
        sa.Column("held_until", sa.BigInteger(), nullable=True),
        sa.Column("completed_at", sa.BigInteger(), nullable=True),
        sa.Column("completed_index", sa.BigInteger(), nullable=True),
        sa.Column("entries", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("scrubbed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("request"),
    )
    op.create_table(
        "consent_feed_evidence",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("partner", sa.String(length=160), nullable=False),
        sa.Column("found", sa.String(length=32), nullable=False),
        sa.Column("heard", sa.Text(), nullable=False),
        sa.Column("shown", sa.Text(), nullable=False),
        sa.Column("message", sa.LargeBinary(), nullable=False),
        sa.Column("idx", sa.BigInteger(), nullable=False),
        sa.Column("found_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("consent_feed_evidence", schema=None) as batch_op:
        batch_op.create_index("consent_feed_evidence_partner", ["partner"], unique=False)

    op.create_table(
        "consent_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("lookup_version", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "consent_inbox",
        sa.Column("partner", sa.String(length=160), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("idx", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("pseudonyms", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("partner", "seq"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "consent_links",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("person", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("purposes", sa.Text(), nullable=False),
        sa.Column("partners", sa.Text(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("token_hash"),
    )
    with op.batch_alter_table("consent_links", schema=None) as batch_op:
        batch_op.create_index("consent_links_created", ["created_at", "id"], unique=False)
        batch_op.create_index("consent_links_person", ["person"], unique=False)

    op.create_table(
        "consent_lookup_keys",
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("since_index", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("version"),
    )
    op.create_table(
        "consent_outbox",
        sa.Column("partner", sa.String(length=160), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("idx", sa.BigInteger(), nullable=False),
        sa.Column("subject", sa.LargeBinary(), nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("purposes", sa.Text(), nullable=False),
        sa.Column("effective_at", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=True),
        sa.Column("enforced_at", sa.BigInteger(), nullable=True),
        sa.Column("acked_at", sa.BigInteger(), nullable=True),
        sa.Column("pseudonyms", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("partner", "seq"),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("consent_outbox", schema=None) as batch_op:
        batch_op.create_index("consent_outbox_subject", ["subject"], unique=False)

    op.create_table(
        "consent_partners",
        sa.Column("name", sa.String(length=160), nullable=False),
        sa.Column("vkey", sa.String(length=512), nullable=False),
        sa.Column("joined_index", sa.BigInteger(), nullable=False),
        sa.Column("removed_at", sa.BigInteger(), nullable=True),
        sa.Column("sent_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("acked_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("acked_frontier", sa.LargeBinary(), nullable=True),
        sa.Column("acked_at", sa.BigInteger(), nullable=True),
        sa.Column("heard_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("heard_frontier", sa.LargeBinary(), nullable=True),
        sa.Column("heard_checkpoint", sa.Text(), nullable=True),
        sa.Column("heard_at", sa.BigInteger(), nullable=True),
        sa.Column("enforced_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lease", sa.BigInteger(), nullable=True),
        sa.Column("fresh_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "consent_policies",
        sa.Column("idx", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("idx"),
    )
    op.create_table(
        "consent_receipts",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("idx", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("purpose", sa.String(length=160), nullable=False),
        sa.Column("partner", sa.String(length=160), nullable=False),
        sa.Column("job", sa.String(length=160), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("members", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("idx"),
    )
    op.create_table(
        "consent_restrictions",
        sa.Column("partner", sa.String(length=160), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("pseudonym", sa.LargeBinary(), nullable=False),
        sa.Column("purpose", sa.String(length=160), nullable=False),
        sa.Column("restricted_at", sa.BigInteger(), nullable=True),
        sa.Column("lifted_at", sa.BigInteger(), nullable=True),
        sa.Column("idx", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("partner", "kind", "pseudonym", "purpose"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "consent_side",
        sa.Column(
            "first_index",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("subject", sa.LargeBinary(), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("first_index"),
    )
    with op.batch_alter_table("consent_side", schema=None) as batch_op:
        batch_op.create_index("consent_side_subject", ["subject"], unique=False)

    op.create_table(
        "consent_split_views",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("origin", sa.String(length=512), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("first", sa.Text(), nullable=False),
        sa.Column("second", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("idx", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_table(
        "consent_state",
        sa.Column("purpose", sa.String(length=160), nullable=False),
        sa.Column("partner", sa.String(length=160), nullable=False),
        sa.Column("subject", sa.LargeBinary(), nullable=False),
        sa.Column("granted_at", sa.BigInteger(), nullable=True),
        sa.Column("granted_version", sa.Integer(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("granted_index", sa.BigInteger(), nullable=True),
        sa.Column("restricted_at", sa.BigInteger(), nullable=True),
        sa.Column("restriction", sa.String(length=32), nullable=True),
        sa.Column("restricted_index", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("purpose", "partner", "subject"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "consent_state_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("through", sa.BigInteger(), nullable=False),
        sa.Column("idx", sa.BigInteger(), nullable=True),
        sa.Column("pairs", sa.BigInteger(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "consent_state_removed",
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "consent_state_tree",
        sa.Column("path", sa.String(length=64), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("path"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "consent_subjects",
        sa.Column("handle", sa.LargeBinary(), nullable=False),
        sa.Column("wrapped_key", sa.LargeBinary(), nullable=False),
        sa.Column("identifiers", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("merged_into", sa.LargeBinary(), nullable=True),
        sa.Column("merged_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("handle"),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("consent_subjects", schema=None) as batch_op:
        batch_op.create_index(
            "consent_subjects_merged",
            ["merged_into"],
            unique=False,
            sqlite_where=sa.text("merged_into IS NOT NULL"),
            postgresql_where=sa.text("merged_into IS NOT NULL"),
        )

    op.create_table(
        "consent_suppressions",
        sa.Column("lookup", sa.LargeBinary(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("basis", sa.String(length=64), nullable=False),
        sa.Column("erased_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("idx", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("lookup"),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("consent_suppressions", schema=None) as batch_op:
        batch_op.create_index("consent_suppressions_expiry", ["expires_at"], unique=False)

    op.create_table(
        "consent_tiles",
        sa.Column("level", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("idx", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "idx"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "consent_witnessed",
        sa.Column("origin", sa.String(length=512), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("checkpoint", sa.Text(), nullable=False),
        sa.Column("seconds", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("origin"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "clean_room_approvals",
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("decision", sa.String(length=16), nullable=False),
        sa.Column("principal", sa.String(length=128), nullable=False),
        sa.Column("reason", sa.String(length=512), nullable=False),
        sa.Column("at", sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint("job"),
    )
    op.create_table(
        "clean_room_budget_accounts",
        sa.Column("lineage", sa.String(length=255), nullable=False),
        sa.Column("period", sa.String(length=7), nullable=False),
        sa.Column("partner_key", sa.String(length=64), nullable=False),
        sa.Column("account", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("lineage", "period", "partner_key"),
    )
    op.create_table(
        "clean_room_collaborations",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("partner", sa.String(length=64), nullable=False),
        sa.Column("partner_key", sa.String(length=64), nullable=False),
        sa.Column("partner_url", sa.String(length=512), nullable=False),
        sa.Column("agreement_hash", sa.String(length=64), server_default="", nullable=False),
        sa.Column("documents", sa.JSON(), nullable=False),
        sa.Column("sealed_exchange", sa.LargeBinary(), nullable=True),
        sa.Column("sealed_pair_key", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.String(length=40), nullable=False),
        sa.Column("updated_at", sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("clean_room_collaborations", schema=None) as batch_op:
        batch_op.create_index("ix_clean_room_collaborations_partner", ["partner", "state"], unique=False)

    op.create_table(
        "clean_room_exports",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("principal", sa.String(length=128), nullable=False),
        sa.Column("format", sa.String(length=16), nullable=False),
        sa.Column("people", sa.Integer(), nullable=False),
        sa.Column("at", sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("clean_room_exports", schema=None) as batch_op:
        batch_op.create_index("ix_clean_room_exports_job", ["job", "id"], unique=False)

    op.create_table(
        "clean_room_idempotency",
        sa.Column("principal", sa.String(length=128), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("principal", "key"),
    )
    op.create_table(
        "clean_room_jobs",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("collaboration", sa.String(length=64), nullable=False),
        sa.Column("partner", sa.String(length=64), nullable=False),
        sa.Column("principal", sa.String(length=128), nullable=False),
        sa.Column("query", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=24), nullable=False),
        sa.Column("stage", sa.String(length=16), nullable=False),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("input", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("reservation", sa.String(length=128), nullable=True),
        sa.Column("receipt_id", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.String(length=40), nullable=False),
        sa.Column("updated_at", sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("clean_room_jobs", schema=None) as batch_op:
        batch_op.create_index("ix_clean_room_jobs_created", ["created_at", "id"], unique=False)
        batch_op.create_index("ix_clean_room_jobs_state", ["state"], unique=False)

    op.create_table(
        "clean_room_questions",
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("lineage", sa.String(length=255), nullable=False),
        sa.Column("partner", sa.String(length=255), nullable=False),
        sa.Column("period", sa.String(length=7), nullable=False),
        sa.Column("question", sa.String(length=64), nullable=False),
        sa.Column("input", sa.String(length=64), nullable=False),
        sa.Column("sizes", sa.JSON(), nullable=False),
        sa.Column("kept_by", sa.String(length=64), nullable=False),
        sa.Column("ring", sa.Integer(), nullable=False),
        sa.Column("settled", sa.Boolean(), nullable=False),
        sa.Column("asked_at", sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint("job"),
    )
    with op.batch_alter_table("clean_room_questions", schema=None) as batch_op:
        batch_op.create_index(
            "ix_clean_room_questions_place", ["role", "lineage", "partner", "period"], unique=False
        )

    op.create_table(
        "clean_room_receipts",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("collaboration", sa.String(length=64), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("job", "collaboration", name="uq_clean_room_receipts_job"),
    )
    op.create_table(
        "federated_idempotency",
        sa.Column("principal", sa.String(length=128), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("principal", "key"),
    )
    op.create_table(
        "federated_runs",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("partner", sa.String(length=64), nullable=False),
        sa.Column("collaboration", sa.String(length=64), nullable=False),
        sa.Column("principal", sa.String(length=128), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=24), nullable=False),
        sa.Column("stage", sa.String(length=32), nullable=False),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("alignment", sa.String(length=64), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("card", sa.JSON(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.String(length=40), nullable=False),
        sa.Column("updated_at", sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("federated_runs", schema=None) as batch_op:
        batch_op.create_index("ix_federated_runs_created", ["created_at", "id"], unique=False)
        batch_op.create_index("ix_federated_runs_state", ["state"], unique=False)

    op.create_table(
        "federated_models",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(
            ["run"],
            ["federated_runs.id"],
        ),
        sa.PrimaryKeyConstraint("run"),
    )
    op.create_table(
        "federated_rounds",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("round", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("party", sa.String(length=64), nullable=False),
        sa.Column("receipt", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run"],
            ["federated_runs.id"],
        ),
        sa.PrimaryKeyConstraint("run", "round", "party"),
    )
    op.create_table(
        "comity_api_key",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("role", sa.String(length=32), nullable=False),
        sa.Column("scope", sa.String(length=500), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "comity_request_nonce",
        sa.Column("partner", sa.String(length=63), nullable=False),
        sa.Column("nonce", sa.String(length=64), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("partner", "nonce"),
    )
    with op.batch_alter_table("comity_request_nonce", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_comity_request_nonce_expires_at"), ["expires_at"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("comity_request_nonce", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_comity_request_nonce_expires_at"))

    op.drop_table("comity_request_nonce")
    op.drop_table("comity_api_key")
    op.drop_table("federated_rounds")
    op.drop_table("federated_models")
    with op.batch_alter_table("federated_runs", schema=None) as batch_op:
        batch_op.drop_index("ix_federated_runs_state")
        batch_op.drop_index("ix_federated_runs_created")

    op.drop_table("federated_runs")
    op.drop_table("federated_idempotency")
    op.drop_table("clean_room_receipts")
    with op.batch_alter_table("clean_room_questions", schema=None) as batch_op:
        batch_op.drop_index("ix_clean_room_questions_place")

    op.drop_table("clean_room_questions")
    with op.batch_alter_table("clean_room_jobs", schema=None) as batch_op:
        batch_op.drop_index("ix_clean_room_jobs_state")
        batch_op.drop_index("ix_clean_room_jobs_created")

    op.drop_table("clean_room_jobs")
    op.drop_table("clean_room_idempotency")
    with op.batch_alter_table("clean_room_exports", schema=None) as batch_op:
        batch_op.drop_index("ix_clean_room_exports_job")

    op.drop_table("clean_room_exports")
    with op.batch_alter_table("clean_room_collaborations", schema=None) as batch_op:
        batch_op.drop_index("ix_clean_room_collaborations_partner")

    op.drop_table("clean_room_collaborations")
    op.drop_table("clean_room_budget_accounts")
    op.drop_table("clean_room_approvals")
    op.drop_table("consent_witnessed")
    op.drop_table("consent_tiles")
    with op.batch_alter_table("consent_suppressions", schema=None) as batch_op:
        batch_op.drop_index("consent_suppressions_expiry")

    op.drop_table("consent_suppressions")
    with op.batch_alter_table("consent_subjects", schema=None) as batch_op:
        batch_op.drop_index(
            "consent_subjects_merged",
            sqlite_where=sa.text("merged_into IS NOT NULL"),
            postgresql_where=sa.text("merged_into IS NOT NULL"),
        )

    op.drop_table("consent_subjects")
    op.drop_table("consent_state_tree")
    op.drop_table("consent_state_removed")
    op.drop_table("consent_state_head")
    op.drop_table("consent_state")
    op.drop_table("consent_split_views")
    with op.batch_alter_table("consent_side", schema=None) as batch_op:
        batch_op.drop_index("consent_side_subject")

    op.drop_table("consent_side")
    op.drop_table("consent_restrictions")
    op.drop_table("consent_receipts")
    op.drop_table("consent_policies")
    op.drop_table("consent_partners")
    with op.batch_alter_table("consent_outbox", schema=None) as batch_op:
        batch_op.drop_index("consent_outbox_subject")

    op.drop_table("consent_outbox")
    op.drop_table("consent_lookup_keys")
    with op.batch_alter_table("consent_links", schema=None) as batch_op:
        batch_op.drop_index("consent_links_person")
        batch_op.drop_index("consent_links_created")

    op.drop_table("consent_links")
    op.drop_table("consent_inbox")
    op.drop_table("consent_head")
    with op.batch_alter_table("consent_feed_evidence", schema=None) as batch_op:
        batch_op.drop_index("consent_feed_evidence_partner")

    op.drop_table("consent_feed_evidence")
    op.drop_table("consent_erasures")
    op.drop_table("consent_entries")
    op.drop_table("consent_audit_reports")
    with op.batch_alter_table("consent_aliases", schema=None) as batch_op:
        batch_op.drop_index("consent_aliases_subject")

    op.drop_table("consent_aliases")
    op.drop_table("privacy_budget_reservations")
    op.drop_table("privacy_budget_accounts")
