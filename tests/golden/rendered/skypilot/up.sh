#!/bin/sh
# Starts the services of plan 831ff0210dcc.
set -eu
cd "$(dirname "$0")"
sky serve up --yes ${HF_TOKEN:+--env HF_TOKEN} -n chat-l4-on-demand-gcp-us-central1 services/chat-l4-on-demand-gcp-us-central1.yaml
sky serve up --yes ${HF_TOKEN:+--env HF_TOKEN} -n chat-2xh100-sxm-spot-aws-us-east-1 services/chat-2xh100-sxm-spot-aws-us-east-1.yaml
sky serve up --yes ${HF_TOKEN:+--env HF_TOKEN} -n code-mi300x-on-demand-azure-eastus services/code-mi300x-on-demand-azure-eastus.yaml
sky serve up --yes ${HF_TOKEN:+--env HF_TOKEN} -n tiny-xeon-owned services/tiny-xeon-owned.yaml
