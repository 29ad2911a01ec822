#include "cli/image_json.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "client/report_json.h"
#include "rollback/show.h"

namespace relive::cli {

namespace {

using Json = nlohmann::ordered_json;

std::string dump(const Json& value) { return value.dump(2, ' ', false, Json::error_handler_t::replace); }

Json list_of(const image::Findings& findings) {
  Json list = Json::array();
  for (const image::Finding& finding : findings.all()) {
    Json one = {{"severity", finding.severity == image::Severity::damaged ? "damaged" : "unsupported"},
                {"file", finding.file}};
    one["entry"] = finding.entry ? Json(*finding.entry) : Json(nullptr);
    one["text"] = finding.text;
    list.push_back(std::move(one));
  }
  return list;
}

std::uint64_t pages_of(const image::Image& image) {
  std::uint64_t pages = 0;
  for (const image::ImagedTask& task : image.tasks) pages += image::count_pages(task.pages);
  return pages;
}

}  // namespace

std::string check_json(const std::string& path, const image::Image& image, const image::Findings& findings,
                       int exit_code) {
  return dump({{"image", path},
               {"whole", !findings.any_damage()},
               {"applicable", findings.count() == 0},
               {"tasks", image.tasks.size()},
               {"pages", pages_of(image)},
               {"findings", findings.count()},
               {"finding_list", list_of(findings)},
               {"exit_code", exit_code}});
}

std::string image_json(const std::string& path, const image::Image& image, const image::Findings& findings) {
  Json tasks = Json::array();
  for (const image::ImagedTask& task : image.tasks) {
    Json one = Json::parse(client::show_json(rollback::show(task)), nullptr, false);
    const Json shown = one["task_list"].front();
    one.erase("task_list");
    one.update(shown);
    one["parent"] = task.task.process.parent;
    one["group"] = task.task.process.group;
    one["session"] = task.task.process.session;
    tasks.push_back(std::move(one));
  }
  return dump({{"image", path},
               {"whole", !findings.any_damage()},
               {"tasks", image.tasks.size()},
               {"pages", pages_of(image)},
               {"findings", findings.count()},
               {"task_list", tasks}});
}

}  // namespace relive::cli
