#!/usr/bin/env bash
# Writes the protobuf and gRPC stubs into farthing/v1. They are committed; `make check` fails when they are not up to date.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-../.venv/bin/python}
out=${1:-.}
PATH="$(dirname "$python"):$PATH" "$python" -m grpc_tools.protoc -I . --python_out="$out" --grpc_python_out="$out" \
    --mypy_out="quiet,readable_stubs:$out" --mypy_grpc_out="quiet:$out" farthing/v1/*.proto
# What gateways in the field speak is kept as a picture of the wire, which only grows: a change that old ones would misread goes no further.
if [ "$out" = . ]; then
    buf=$(dirname "$python")/buf
    "$buf" breaking --against wire.binpb
    "$buf" build --exclude-source-info -o wire.binpb
fi
