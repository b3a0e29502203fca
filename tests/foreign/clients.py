"""Foreign L402 clients. The test pays the invoices that they are asked for: PAY <invoice>, then a line with the preimage."""
import os
import sys

name, url, body_file = sys.argv[1:4]
with open(body_file, "rb") as file:
    body = file.read()
headers = {"Content-Type": "application/json"}


def pay(invoice):
    print("PAY", invoice, flush=True)
    return sys.stdin.readline().strip()


def tell(answer):
    print("ANSWER", answer.status_code, answer.text.replace("\n", " "), flush=True)


if name == "fewsats":
    from l402.client import requests
    from l402.client.credentials import SqliteCredentialsService

    class Wallet:
        def get_preimage(self, invoice):
            return pay(invoice)

    store = SqliteCredentialsService(os.path.join(os.path.dirname(body_file), "fewsats.db"))
    requests.configure(preimage_provider=Wallet(), credentials_service=store)
    for _ in range(2):
        tell(requests.post(url, data=body, headers=dict(headers)))
elif name == "l402-requests":
    from l402_requests import L402Client
    from l402_requests.wallets import WalletBase

    class Wallet(WalletBase):
        async def pay_invoice(self, bolt11):
            return pay(bolt11)

    client = L402Client(wallet=Wallet())
    for _ in range(2):
        tell(client.request("POST", url, content=body, headers=dict(headers)))
else:
    sys.exit(f"no client {name}")
