#!/usr/bin/env bash
# Puts three software Vulkan drivers into target/drivers, for machines without a GPU: two that are right (Mesa's lavapipe and SwiftShader) and
# one that must be refused (Debian 12's own lavapipe, whose loops end after 65,535 iterations). Needs no root and changes nothing outside
# that folder: packages are downloaded through apt, held against a version and a checksum, and taken apart there.
#
#   tests/drivers.sh          makes what is missing; quick when nothing is
#   tests/drivers.sh env      prints the variables under which programs load the two sound drivers: eval "$(tests/drivers.sh env)"
#
# Exit codes: 0 done; 3 this system has no pinned drivers (not Debian 12 on x86-64); 1 anything else, with a line that says what.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${EVALMESH_DRIVERS:-$PWD/target/drivers}
pins=2026-11-21.1 # rises with every change below, so that older folders are made anew

# name | package | version | SHA-256 of the package | the file in it
drivers=(
    "loader|libvulkan1|1.3.239.0-1|622f28b807ba55a1f5ad1622ff83aa2c5b11fedbec074850e04c10a8f28b43d3|usr/lib/x86_64-linux-gnu/libvulkan.so.1"
    "lavapipe|mesa-vulkan-drivers|25.0.7-2~bpo12+1|3899f1800424c60a05df5d6913076a526ca8fdbabec43672cd397563d1ca3263|usr/lib/x86_64-linux-gnu/libvulkan_lvp.so"
    "old|mesa-vulkan-drivers|22.3.6-1+deb12u2|21f9ecf52886c88247d8ef92b635b8f670ab01fd7813c98f8200220aa138f4da|usr/lib/x86_64-linux-gnu/libvulkan_lvp.so"
    "swiftshader|chromium-common|150.0.7871.100-1~deb12u1|31326f6b71ce20a52e7bea9792bf7135d4ff802e1cdbc250960b1b46729998d2|usr/lib/chromium/libvk_swiftshader.so"
)
# What the drivers link to beyond the C library; taken from the distribution, in its current version, only where the system has none.
libraries=(libllvm15 libz3-4 libxml2 libicu72 libedit2 libffi8 libdrm2 libexpat1 libzstd1 zlib1g libwayland-client0 libx11-xcb1 libxcb1
    libxcb-dri3-0 libxcb-present0 libxcb-randr0 libxcb-shm0 libxcb-sync1 libxcb-xfixes0 libxshmfence1 libxau6 libxdmcp6 libbsd0 libmd0 libtinfo6
    liblzma5 libstdc++6)

die() {
    echo "tests/drivers.sh: $1" >&2
    exit "${2:-1}"
}

print_env() {
    echo "export LD_LIBRARY_PATH='$folder/lib'\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
    echo "export VK_DRIVER_FILES='$folder/lavapipe.json:$folder/swiftshader.json'"
}

done_before() { [[ -f $folder/done && $(<"$folder/done") == "$pins" ]]; }

# apt with Debian's backports beside what the system has, and with lists and downloads of its own.
private_apt() {
    local site
    site=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 2>/dev/null | awk '$1 == "bookworm" { print $2; exit }')
    [[ -n $site ]] || die "apt knows no source of Debian 12 (bookworm)"
    mkdir -p "$work"/lists/partial "$work"/cache/archives/partial "$work"/debs
    echo "deb $site bookworm-backports main" >"$work/backports.list"
    apt_options=(-q -o "Dir::Etc::sourcelist=$work/backports.list" -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache"
        -o APT::Sandbox::User=root)
    # The private lists start empty, so the system's own sources are read as well, whatever its last update was.
    apt-get "${apt_options[@]}" update >"$work/update.log" 2>&1 || die "apt cannot read its sources: $(tail -n 3 "$work/update.log")"
}

# Downloads a package (`name` or `name=version`) and prints the file.
download() {
    rm -f "$work"/debs/*.deb
    (cd "$work/debs" && apt-get "${apt_options[@]}" download "$1" >"$work/download.log" 2>&1) ||
        die "apt has no $1 (there is $(apt-cache "${apt_options[@]}" madison "${1%%=*}" | awk '{ print $3 }' | sort -u | tr '\n' ' ')): $(tail -n 2 "$work/download.log")"
    ls "$work"/debs/*.deb
}

take_driver() {
    local name=$1 package=$2 version=$3 sum=$4 file=$5 deb found
    deb=$(download "$package=$version")
    found=$(sha256sum "$deb" | cut -d' ' -f1)
    [[ $found == "$sum" ]] || die "$package $version has the checksum $found, not $sum"
    rm -rf "$work/out" && mkdir "$work/out"
    dpkg -x "$deb" "$work/out"
    if [[ $name == loader ]]; then
        cp -L "$work/out/$file" "$fresh/lib/$(basename "$file")"
    else
        mkdir -p "$fresh/$name"
        cp -L "$work/out/$file" "$fresh/$name/"
        printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "%s", "api_version": "1.3.0"}}\n' \
            "$folder/$name/$(basename "$file")" >"$fresh/$name.json"
    fi
}

missing() { LD_LIBRARY_PATH=$fresh/lib ldd "$fresh"/*/lib*.so 2>/dev/null | grep -c 'not found' || true; }

take_libraries() {
    local package
    for package in "${libraries[@]}"; do
        rm -rf "$work/out" && mkdir "$work/out"
        dpkg -x "$(download "$package/bookworm")" "$work/out"
        find "$work/out" -name '*.so.*' -exec cp -P {} "$fresh/lib/" \;
    done
}

make() {
    local line
    [[ $(uname -sm) == "Linux x86_64" ]] && grep -q 'VERSION_CODENAME=bookworm' /etc/os-release 2>/dev/null ||
        die "only Debian 12 on x86-64 has pinned software drivers; elsewhere install Mesa 25 or newer and try \`evalmesh devices\`" 3
    command -v dpkg >/dev/null && command -v apt-get >/dev/null || die "dpkg and apt-get are needed"
    echo "tests/drivers.sh: software Vulkan drivers into $folder" >&2
    mkdir -p "$folder"
    work=$(mktemp -d "$folder/work.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    fresh=$work/fresh
    mkdir -p "$fresh/lib"
    private_apt
    for line in "${drivers[@]}"; do
        IFS='|' read -r name package version sum file <<<"$line"
        take_driver "$name" "$package" "$version" "$sum" "$file"
    done
    # Mesa from backports wants a newer libdrm by its package, and loads with the distribution's.
    [[ $(missing) == 0 ]] || take_libraries
    [[ $(missing) == 0 ]] || die "libraries are missing: $(LD_LIBRARY_PATH=$fresh/lib ldd "$fresh"/*/lib*.so | grep 'not found' | sort -u | tr -s ' \t\n' ' ')"
    rm -rf "$folder"/{lib,lavapipe,old,swiftshader} "$folder"/*.json
    mv "$fresh"/* "$folder/"
    echo "$pins" >"$folder/done"
}

case ${1:-} in
"")
    done_before || make
    ;;
env)
    done_before || make
    print_env
    ;;
*) die "usage: tests/drivers.sh [env]" 2 ;;
esac
