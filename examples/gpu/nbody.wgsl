// Two discs of stars that fall through each other. Floating point, so the answer belongs to one device class; the picture is much the same on all.

struct World { bodies: u32, side: u32, step: f32, softening: f32 }

@group(0) @binding(0) var<uniform> world: World;
@group(0) @binding(1) var<storage, read_write> places: array<vec4f>; // w is the mass
@group(0) @binding(2) var<storage, read_write> speeds: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> picture: array<atomic<u32>>;

fn pcg(x: u32) -> u32 {
    let state = x * 747796405u + 2891336453u;
    let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (word >> 22u) ^ word;
}

fn random(x: u32) -> f32 {
    return f32(pcg(x) >> 8u) / 16777216.0;
}

@compute @workgroup_size(64)
fn begin(@builtin(global_invocation_id) id: vec3u) {
    let disc = f32(id.x & 1u) * 2.0 - 1.0;
    let radius = 0.05 + 0.45 * sqrt(random(id.x * 2u));
    let angle = random(id.x * 2u + 1u) * 6.2831853;
    let at = vec2f(cos(angle), sin(angle)) * radius;
    let round = vec2f(-at.y, at.x) * (0.55 / sqrt(radius));
    places[id.x] = vec4f(at.x + disc * 0.7, at.y + disc * 0.25, (random(id.x + 77777u) - 0.5) * 0.02, 1.0 / f32(world.bodies));
    speeds[id.x] = vec4f(round.x - disc * 0.25, round.y, 0.0, 0.0);
}

var<workgroup> tile: array<vec4f, 64>;

@compute @workgroup_size(64)
fn pull(@builtin(global_invocation_id) id: vec3u, @builtin(local_invocation_index) at: u32) {
    let own = places[id.x].xyz;
    var force = vec3f();
    for (var start = 0u; start < world.bodies; start += 64u) {
        tile[at] = places[start + at];
        workgroupBarrier();
        for (var other = 0u; other < 64u; other++) {
            let way = tile[other].xyz - own;
            let near = dot(way, way) + world.softening;
            force += way * (tile[other].w / (near * sqrt(near)));
        }
        workgroupBarrier();
    }
    speeds[id.x] += vec4f(force * world.step, 0.0);
}

@compute @workgroup_size(64)
fn drift(@builtin(global_invocation_id) id: vec3u) {
    places[id.x] += vec4f(speeds[id.x].xyz * world.step, 0.0);
}

@compute @workgroup_size(64)
fn paint(@builtin(global_invocation_id) id: vec3u) {
    let side = f32(world.side);
    let at = (places[id.x].xy / 3.2 + 0.5) * side;
    if (all(at >= vec2f()) && all(at < vec2f(side))) {
        atomicAdd(&picture[u32(at.y) * world.side + u32(at.x)], 1u);
    }
}
