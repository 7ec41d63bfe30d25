#!/bin/sh
# Starts the services of plan 07e839fab816 and writes their endpoints into the
# router's file.
set -eu
cd "$(dirname "$0")"
sky serve up --yes -n chat-l4-on-demand-gcp-us-central1 services/chat-l4-on-demand-gcp-us-central1.yaml
sky serve up --yes -n chat-2xh100-sxm-spot-aws-us-east-1 services/chat-2xh100-sxm-spot-aws-us-east-1.yaml
sky serve up --yes -n code-mi300x-on-demand-azure-eastus services/code-mi300x-on-demand-azure-eastus.yaml
sky serve up --yes -n tiny-xeon-owned services/tiny-xeon-owned.yaml
sed -e "s|http://chat-l4-on-demand-gcp-us-central1\.invalid|http://$(sky serve status --endpoint chat-l4-on-demand-gcp-us-central1)|" -e "s|http://chat-2xh100-sxm-spot-aws-us-east-1\.invalid|http://$(sky serve status --endpoint chat-2xh100-sxm-spot-aws-us-east-1)|" -e "s|http://code-mi300x-on-demand-azure-eastus\.invalid|http://$(sky serve status --endpoint code-mi300x-on-demand-azure-eastus)|" -e "s|http://tiny-xeon-owned\.invalid|http://$(sky serve status --endpoint tiny-xeon-owned)|" router.yaml > router.live.yaml
