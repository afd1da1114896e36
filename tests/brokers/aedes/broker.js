// aedes on a port of the loopback: a broker without MQTT 5.
const { createServer } = require("net");
const { Aedes } = require("aedes");

Aedes.createBroker().then((broker) => createServer(broker.handle).listen(Number(process.argv[2]), "127.0.0.1"));
