#!/bin/sh
# Writes router.live.yaml: the router's file with the services' endpoints.
set -eu
cd "$(dirname "$0")"
cp router.yaml edited
endpoint=$(sky serve status --endpoint chat-l4-on-demand-gcp-us-central1)
[ "$endpoint" != - ] || { echo "chat-l4-on-demand-gcp-us-central1 has no endpoint yet" >&2; exit 1; }
sed "s|http://chat-l4-on-demand-gcp-us-central1.invalid|http://${endpoint#http://}|" edited > edited.next
mv edited.next edited
endpoint=$(sky serve status --endpoint chat-2xh100-sxm-spot-aws-us-east-1)
[ "$endpoint" != - ] || { echo "chat-2xh100-sxm-spot-aws-us-east-1 has no endpoint yet" >&2; exit 1; }
sed "s|http://chat-2xh100-sxm-spot-aws-us-east-1.invalid|http://${endpoint#http://}|" edited > edited.next
mv edited.next edited
endpoint=$(sky serve status --endpoint code-mi300x-on-demand-azure-eastus)
[ "$endpoint" != - ] || { echo "code-mi300x-on-demand-azure-eastus has no endpoint yet" >&2; exit 1; }
sed "s|http://code-mi300x-on-demand-azure-eastus.invalid|http://${endpoint#http://}|" edited > edited.next
mv edited.next edited
endpoint=$(sky serve status --endpoint tiny-xeon-owned)
[ "$endpoint" != - ] || { echo "tiny-xeon-owned has no endpoint yet" >&2; exit 1; }
sed "s|http://tiny-xeon-owned.invalid|http://${endpoint#http://}|" edited > edited.next
mv edited.next edited
mv edited router.live.yaml
