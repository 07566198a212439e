#!/bin/sh
# Makes Temporal's two databases, or brings them up to the schema of this image; safe to run again.
# Takes POSTGRES_SEEDS, POSTGRES_USER and SQL_PASSWORD from the environment.
set -eu

upgrade() {
    database=$1 versions=$2
    set -- --plugin postgres12 --ep "$POSTGRES_SEEDS" --port 5432 --user "$POSTGRES_USER" --db "$database"
    temporal-sql-tool "$@" create
    temporal-sql-tool "$@" setup-schema --version 0.0
    temporal-sql-tool "$@" update-schema --schema-dir "/etc/temporal/schema/postgresql/v12/$versions/versioned"
}

upgrade temporal temporal
upgrade temporal_visibility visibility
