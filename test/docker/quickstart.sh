#!/usr/bin/env bash
# What docs/containers.md says under "Quick start", as an administrator types it in a copy of the
# repository with fullchain.pem and privkey.pem. test/docker.sh runs it on a terminal.
set -eu

mkdir -p etc/tls && cp fullchain.pem privkey.pem etc/tls/
printf '[server]\nhostname = "mail.example.org"\n[relay]\nnext_hops = ["smtp://postfix:25"]\n' >etc/config.toml
sudo chown -R 65532:65532 etc
docker compose run --rm -v "$PWD/etc:/edit" postern passwd /edit/users alice
docker compose up -d
