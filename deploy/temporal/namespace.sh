#!/bin/sh
# Makes the namespace of the workers unless it is there. Takes TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE from the
# environment. The server's port is open some seconds before it answers, so it is asked again for two minutes.
set -eu

attempts=60
until temporal operator namespace describe --namespace "$TEMPORAL_NAMESPACE" >/dev/null 2>&1 ||
    temporal operator namespace create --namespace "$TEMPORAL_NAMESPACE" --retention 168h; do
    attempts=$((attempts - 1))
    if [ "$attempts" -eq 0 ]; then
        echo "Temporal at $TEMPORAL_ADDRESS does not answer, so the namespace $TEMPORAL_NAMESPACE was not made." >&2
        exit 1
    fi
    sleep 2
done
