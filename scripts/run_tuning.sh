#!/usr/bin/env bash
# Quantize a float ONNX classifier and prove what it costs. Installs nothing.
# Exit codes: 0 goal met, 2 bad input, 3 not met or too slow, 4 undecided, 130/143 interrupted.
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 2
# shellcheck source=scripts/find_python.sh
. "$here/find_python.sh"
# shellcheck source=scripts/flags.sh
. "$here/flags.sh"

usage() {
    cat >&2 <<'EOF'
usage: run_tuning.sh --input_model=MODEL --config=YAML --output_model=MODEL
                     [--dataset_location=DIR] [--label_path=FILE] [--quant_format=default|QDQ|QOperator]
                     [--fresh] [--dry_run] [--budget=20m] [--set=KEY=VALUE]...
  Flags take their value as --flag=value or --flag value. --dataset_location, --label_path and
  --quant_format override the YAML; with --dataset_location, --config may be left out.
EOF
    exit 2
}

input_model='' output_model='' config='' dataset=''
args=()
valued='--input_model --output_model --config --dataset_location --label_path --quant_format --budget --set'
switches='--fresh --dry_run'
take() {
    case $1 in
        --fresh) args+=(--fresh) ;;
        --dry_run) args+=(--dry-run) ;;
        --input_model) input_model=$2 ;;
        --output_model) output_model=$2 ;;
        --config) config=$2 ;;
        --dataset_location) dataset=$2; args+=("--dataset-location=$2") ;;
        --label_path) args+=("--label-path=$2") ;;
        --quant_format) args+=("--quant-format=$2") ;;
        --budget) args+=("--budget=$2") ;;
        --set) args+=("--set=$2") ;;
    esac
}
read_flags "$@"

[ -n "$config" ] || [ -z "$dataset" ] || config=$here/../configs/resnet50_v1_5.yaml
missing=''
[ -n "$input_model" ] || missing="$missing --input_model"
[ -n "$config" ] || missing="$missing --config"
[ -n "$output_model" ] || missing="$missing --output_model"
[ -z "$missing" ] || refuse "missing:$missing"

find_python
exec "$python" -P -m quantize tune "--config=$config" "--output=$output_model" \
    ${args[@]+"${args[@]}"} -- "$input_model"
