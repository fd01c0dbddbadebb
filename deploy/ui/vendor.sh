#!/bin/sh
# Puts the JavaScript libraries of deploy/ui/package-lock.json into the tree, as npm gives them by the lock's hashes.
#
#   deploy/ui/vendor.sh
#
# The files are committed: the plugin is made, and tested, without npm. SHA256SUMS holds them to what this wrote.
set -eu
cd "$(dirname "$0")/../.."
command -v npm >/dev/null || { echo "vendor: there is no npm here; on Debian: apt-get install npm" >&2; exit 1; }

work=build/ui
rm -rf "$work"
mkdir -p "$work"
cp deploy/ui/package.json deploy/ui/package-lock.json "$work/"
(cd "$work" && npm ci --ignore-scripts --no-audit --no-fund --silent)

page=compose_ext/ui/static/vendor
tests=tests/ui/vendor
mkdir -p "$page" "$tests"
install -m 644 "$work/node_modules/cytoscape/dist/cytoscape.min.js" "$page/cytoscape.min.js"
install -m 644 "$work/node_modules/cytoscape/LICENSE" "$page/cytoscape.LICENSE"
install -m 644 "$work/node_modules/axe-core/axe.min.js" "$tests/axe.min.js"
install -m 644 "$work/node_modules/axe-core/LICENSE" "$tests/axe.LICENSE"
sha256sum "$page"/* "$tests"/* >deploy/ui/SHA256SUMS
