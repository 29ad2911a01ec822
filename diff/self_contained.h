// What the planner asks of a self-contained kind (model/self_contained.h): one overload of each a kind. Pure.
#pragma once

#include <string>
#include <vector>

#include "model/self_contained.h"

namespace relive::diff {

// Could the living object become the wanted one in place? If not, it is made anew.
[[nodiscard]] bool can_become(const model::EventCounter& wanted, const model::EventCounter& living);
[[nodiscard]] bool can_become(const model::TimerFile& wanted, const model::TimerFile& living);
[[nodiscard]] bool can_become(const model::SignalFile& wanted, const model::SignalFile& living);
[[nodiscard]] bool can_become(const model::InotifySet& wanted, const model::InotifySet& living);
[[nodiscard]] bool can_become(const model::ProcessHandle& wanted, const model::ProcessHandle& living);
[[nodiscard]] bool can_become(const model::Tunnel& wanted, const model::Tunnel& living);

// What differs, a phrase each ("count 3 -> 5"); empty where nothing must be put right.
[[nodiscard]] std::vector<std::string> changes(const model::EventCounter& wanted, const model::EventCounter& living);
[[nodiscard]] std::vector<std::string> changes(const model::TimerFile& wanted, const model::TimerFile& living);
[[nodiscard]] std::vector<std::string> changes(const model::SignalFile& wanted, const model::SignalFile& living);
[[nodiscard]] std::vector<std::string> changes(const model::InotifySet& wanted, const model::InotifySet& living);
[[nodiscard]] std::vector<std::string> changes(const model::ProcessHandle& wanted, const model::ProcessHandle& living);
[[nodiscard]] std::vector<std::string> changes(const model::Tunnel& wanted, const model::Tunnel& living);

// Must a living one be put right? Of most kinds: where something differs. A timer runs down without anybody's doing.
template <class T>
[[nodiscard]] bool must_put_right(const T& wanted, const T& living) {
  return !changes(wanted, living).empty();
}
[[nodiscard]] bool must_put_right(const model::TimerFile& wanted, const model::TimerFile& living);

// Why it cannot be made anew; empty where it can.
struct CannotMake {
  std::string reason;
  std::string hint;
};
[[nodiscard]] CannotMake cannot_make(const model::EventCounter& wanted);
[[nodiscard]] CannotMake cannot_make(const model::TimerFile& wanted);
[[nodiscard]] CannotMake cannot_make(const model::SignalFile& wanted);
[[nodiscard]] CannotMake cannot_make(const model::InotifySet& wanted);
[[nodiscard]] CannotMake cannot_make(const model::ProcessHandle& wanted);
[[nodiscard]] CannotMake cannot_make(const model::Tunnel& wanted);

}  // namespace relive::diff
