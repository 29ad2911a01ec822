#include "parasite/execute.h"

#include <fcntl.h>
#include <sys/syscall.h>

#include <array>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "parasite/remote_syscall.h"
#include "parasite/way_home.h"
#include "task/procfs.h"

namespace relive::parasite {

Result<void> execute(task::FrozenTask& blank, model::RemoteFd program) {
  const task::FrozenThread thread = blank.threads().front();
  // One word that is empty, and a list of words that names it alone.
  struct Words {
    std::uint64_t first, end, empty;
  };
  constexpr std::array<char, sizeof(Words)> kRoom{};
  const std::string maps = RELIVE_TRY(task::read_proc(blank.pid(), "maps"));
  const WayHome home = RELIVE_TRY(lay_way_home(blank, thread, maps, std::string_view(kRoom.data(), kRoom.size())));
  const std::uint64_t empty = home.word.value + offsetof(Words, empty);
  const std::uint64_t none = home.word.value + offsetof(Words, end);
  const Words words{.first = empty, .end = 0, .empty = 0};
  RELIVE_TRY(blank.write(home.word, std::as_bytes(std::span(&words, 1))));

  user_regs_struct base = thread.registers;
  base.rsp = home.stack_pointer;
  const std::int64_t result = RELIVE_TRY(
      remote_syscall(blank, thread.tid, base, home.instruction, SYS_execveat,
                     {static_cast<std::uint64_t>(program.value), empty, home.word.value, none, AT_EMPTY_PATH}));
  if (result < 0)
    return fail_errno("execveat", fmt::format("inside blank task {}", blank.pid().value), static_cast<int>(-result));
  return blank.renew();
}

}  // namespace relive::parasite
