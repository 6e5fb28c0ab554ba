"""What was counted of behaviour events, and which entries of their stream are in the counts."""

from __future__ import annotations

from migrations.statements import execute_each

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

ENTRIES = """
create table rolled_up_entries (
    entry_id text not null,
    rolled_up_at timestamptz not null default now(),
    constraint rolled_up_entries_pkey primary key (entry_id)
);

comment on table rolled_up_entries is
    'entries of the stream that are counted: written with the counts, so that none counts twice'
"""

GRANTS = """
grant select, insert, update, delete on rolled_up_entries to tercet_app;

grant select on rolled_up_entries to tercet_read
"""


def upgrade() -> None:
    for part in (ENTRIES, GRANTS):
        execute_each(part)


def downgrade() -> None:
    execute_each("drop table rolled_up_entries")
