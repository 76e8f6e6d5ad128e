/* A stand-in for pyxis, NVIDIA's SPANK plugin: it takes pyxis's options, runs nothing in a container, and tells the
 * task in its environment (FAKE_IMAGE, FAKE_MOUNTS, FAKE_WORKDIR) what srun was given. An image whose name begins
 * with MISSING fails as one that can't be imported does. tests/slurm/test_containers.py says why it is here.
 *
 *     cc -shared -fPIC -o fake_pyxis.so fake_pyxis.c
 *     plugstack.conf: required /path/fake_pyxis.so
 */
#include <slurm/spank.h>
#include <string.h>

SPANK_PLUGIN(fake_pyxis, 1);

enum { IMAGE, MOUNTS, WORKDIR, IGNORED, KINDS };
static char given[KINDS][4096];

static int note(int kind, const char *value, int remote) {
  (void) remote;
  if (value) strncpy(given[kind], value, sizeof given[kind] - 1);
  return 0;
}

static struct spank_option options[] = {
  {"container-image", "IMAGE", "[stand-in for pyxis] the image", 1, IMAGE, note},
  {"container-mounts", "SRC:DST[,...]", "[stand-in for pyxis] what is mounted", 1, MOUNTS, note},
  {"container-workdir", "PATH", "[stand-in for pyxis] where the task starts", 1, WORKDIR, note},
  {"container-name", "NAME", "[stand-in for pyxis]", 1, IGNORED, note},
  {"container-mount-home", 0, "[stand-in for pyxis]", 0, IGNORED, note},
  {"no-container-mount-home", 0, "[stand-in for pyxis]", 0, IGNORED, note},
  {"container-writable", 0, "[stand-in for pyxis]", 0, IGNORED, note},
};

int slurm_spank_init(spank_t job, int count, char **words) {
  (void) count; (void) words;
  for (unsigned i = 0; i < sizeof options / sizeof *options; i++) spank_option_register(job, &options[i]);
  return 0;
}

int slurm_spank_task_init(spank_t job, int count, char **words) {
  (void) count; (void) words;
  if (!*given[IMAGE]) return 0;
  if (!strncmp(given[IMAGE], "MISSING", 7)) {
    slurm_error("pyxis: failed to import docker image: %s", given[IMAGE]);
    return -1;
  }
  spank_setenv(job, "FAKE_IMAGE", given[IMAGE], 1);
  spank_setenv(job, "FAKE_MOUNTS", given[MOUNTS], 1);
  spank_setenv(job, "FAKE_WORKDIR", given[WORKDIR], 1);
  return 0;
}
