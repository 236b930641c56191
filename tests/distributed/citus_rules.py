"""Citus's rules on plain PostgreSQL: functions with its names that record a table's placement and refuse what it would.

They stand in for a server that no registry has. What they check is what Citus documents: unique keys hold the
distribution column, co-located columns have one type, the column of a row is never NULL and never changes.
"""

from __future__ import annotations

import peewee

RULES = """
CREATE TABLE pg_dist_partition (logicalrelid regclass PRIMARY KEY, partmethod "char", partkey text, colocated text);

CREATE FUNCTION citus_row_rule() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF to_jsonb(NEW) ->> TG_ARGV[0] IS NULL THEN
    RAISE 'cannot perform an INSERT with NULL in the partition column';
  END IF;
  IF TG_OP = 'UPDATE' AND to_jsonb(NEW) -> TG_ARGV[0] <> to_jsonb(OLD) -> TG_ARGV[0] THEN
    RAISE 'modifying the partition value of rows is not allowed';
  END IF;
  RETURN NEW;
END $$;

CREATE FUNCTION create_distributed_table(
  table_name regclass, distribution_column text, distribution_type text DEFAULT 'hash',
  colocate_with text DEFAULT 'default'
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  key pg_attribute;
  other pg_attribute;
BEGIN
  SELECT * INTO key FROM pg_attribute WHERE attrelid = table_name AND attname = distribution_column;
  IF key IS NULL THEN
    RAISE 'column "%" of relation "%" does not exist', distribution_column, table_name;
  END IF;
  IF EXISTS (SELECT FROM pg_index WHERE indrelid = table_name AND indisunique AND NOT key.attnum = ANY (indkey)) THEN
    RAISE 'cannot create constraint on "%"', table_name USING ERRCODE = 'invalid_object_definition', DETAIL =
      'Distributed relations cannot have UNIQUE, EXCLUDE, or PRIMARY KEY constraints that do not include the '
      'partition column (with an equality operator if EXCLUDE).';
  END IF;
  IF colocate_with NOT IN ('none', 'default') THEN
    SELECT a.* INTO other FROM pg_attribute a JOIN pg_dist_partition p ON a.attrelid = p.logicalrelid
      WHERE a.attname = p.partkey AND p.logicalrelid = colocate_with::regclass;
    IF other IS NULL THEN
      RAISE 'relation % is not distributed', colocate_with;
    ELSIF other.atttypid <> key.atttypid THEN
      RAISE 'cannot colocate tables % and %', colocate_with, table_name
        USING DETAIL = 'Distribution column types don''t match.';
    END IF;
  END IF;
  INSERT INTO pg_dist_partition VALUES (table_name, 'h', distribution_column, colocate_with);
  EXECUTE format('CREATE TRIGGER citus_row_rule BEFORE INSERT OR UPDATE ON %s FOR EACH ROW '
    'EXECUTE FUNCTION citus_row_rule(%L)', table_name, distribution_column);
END $$;

CREATE FUNCTION create_reference_table(table_name regclass) RETURNS void LANGUAGE sql AS $$
  INSERT INTO pg_dist_partition VALUES (table_name, 'n', NULL, NULL)
$$;
"""


def install_citus_rules(database: peewee.Database) -> None:
    """Create the functions, once."""
    if database.execute_sql("SELECT to_regclass('pg_dist_partition')").fetchone()[0] is None:
        database.connection().execute(RULES)
