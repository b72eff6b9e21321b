// The npm client against a tracker: node npm_client.mjs URL INFO_HASH PORT PEER
// Exits with 0 when the tracker has handed out PEER (address:port), a scrape has counted one seeder (PEER) and one
// leecher (this client), and `stopped` was answered.
import Client from '../../.test-tools/npm/node_modules/bittorrent-tracker/client.js'

const [url, infoHash, port, peer] = process.argv.slice(2)
const client = new Client({
  infoHash,
  peerId: Buffer.from('-NP0001-abcdefghijkl').toString('hex'),
  announce: [url],
  port: Number(port)
})
let stage = 'started'
let named = false
let counted = false

function proceed () {
  if (stage === 'started' && named && counted) {
    stage = 'stopping'
    client.stop()
  }
}

for (const trouble of ['error', 'warning']) {
  client.on(trouble, ({ message }) => {
    console.log(trouble, message)
    process.exit(1)
  })
}
client.on('update', ({ complete, incomplete, interval }) => {
  console.log(`update complete=${complete} incomplete=${incomplete} interval=${interval}`)
  if (stage === 'stopping') client.destroy(() => process.exit(0))
  else client.scrape()
})
client.on('peer', address => {
  console.log(`peer ${address}`)
  named ||= address === peer
  proceed()
})
client.on('scrape', ({ complete, incomplete, downloaded }) => {
  console.log(`scrape complete=${complete} incomplete=${incomplete} downloaded=${downloaded}`)
  counted ||= complete === 1 && incomplete === 1
  proceed()
})
client.start({ left: 100 })
