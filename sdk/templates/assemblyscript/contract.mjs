// The compiler can't give an export a name with colons: this does, after it has compiled.
import { Transform } from "assemblyscript/transform";

const NAMES = {
  handle: "device:module/events@0.1.0#handle",
  posted: "cabi_post_device:module/events@0.1.0#handle",
};

export default class Contract extends Transform {
  afterCompile(module) {
    for (const [name, wanted] of Object.entries(NAMES)) {
      const internal = `module/${name}`;
      module.removeExport(name);
      module.addFunctionExport(internal, wanted);
    }
  }
}
