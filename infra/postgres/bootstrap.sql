-- Roles, database and extensions of Tercet, made by the superuser; everything else is migrations.
--
-- For psql. The passwords are read from the folder TERCET_SECRETS_DIR, one file each, so that
-- they stand neither in this file nor on a command line. May be run again at any time: it makes
-- what is missing and sets the passwords to what the files say.

\set ON_ERROR_STOP on
\set QUIET on
\set owner_password `cat "${TERCET_SECRETS_DIR:?}/tercet_owner_password"`
\set app_password `cat "${TERCET_SECRETS_DIR:?}/tercet_app_password"`
\set read_password `cat "${TERCET_SECRETS_DIR:?}/tercet_read_password"`
\set replication_password `cat "${TERCET_SECRETS_DIR:?}/tercet_replication_password"`

-- A statement with a password in it stays out of the log and of pg_stat_statements.
set log_statement = 'none';
set log_min_duration_statement = -1;
set log_min_error_statement = 'panic';
set pg_stat_statements.track = 'none';

select format('create role %I', name)
from unnest(array['tercet_owner', 'tercet_app', 'tercet_read', 'tercet_replication']) as name
where not exists (select from pg_roles where rolname = name)
\gexec

alter role tercet_owner with login password :'owner_password';
alter role tercet_app with login password :'app_password';
alter role tercet_read with login password :'read_password';
alter role tercet_replication with login replication password :'replication_password';

-- The built-in C.UTF-8: the same order and the same letters on every machine and in every image.
select 'create database tercet owner tercet_owner template template0 encoding ''UTF8''
    locale_provider builtin builtin_locale ''C.UTF-8'' lc_collate ''C'' lc_ctype ''C'''
where not exists (select from pg_database where datname = 'tercet')
\gexec

\connect tercet

set pg_stat_statements.track = 'none';
set client_min_messages = warning;

create extension if not exists pg_trgm;
create extension if not exists btree_gist;
create extension if not exists unaccent;
create extension if not exists fuzzystrmatch;
create extension if not exists pg_stat_statements;

revoke all on database tercet from public;
grant connect, temporary on database tercet to tercet_owner;
grant connect on database tercet to tercet_app, tercet_read;

-- tercet_owner makes the tables; the others may use what it grants, and make nothing.
alter schema public owner to tercet_owner;
revoke create on schema public from public;
grant usage on schema public to tercet_app, tercet_read;

-- Reads are read only even where a standby has become the primary.
alter role tercet_read in database tercet set default_transaction_read_only = on;

-- `tercet doctor` and the load tests look at the servers' own statistics.
grant pg_read_all_stats to tercet_owner;
