#include "rollback/member.h"

namespace relive::rollback {

void Member::set_current(const tracking::PageMap& map) {
  if (map == current) return;  // counting costs 1 ns a page
  store->retain(map.runs());
  store->release(current.runs());
  current = map;
}

void Member::forget_task() {
  tracker.reset();
  session.reset();
  start_time = 0;
  last_memory = {};
  rest.reset();
  if (store) store->task_ended();
}

}  // namespace relive::rollback
